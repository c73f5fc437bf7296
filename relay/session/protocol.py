"""The protocol: the commands of a mail transaction (RFC 5321, 6409, 3030), on a connection that knows who speaks.

Promises: nobody gets to MAIL without AUTH; every reply but the greeting, EHLO's and 3yz carries an enhanced code; the octets of a chunk
are consumed whatever becomes of it; commands that follow a message nobody asked for are not obeyed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import ClassVar

from relay.accounts.user import User
from relay.mail.address import canonical
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.trace import Hop
from relay.session.capture import SMALL, Chunks, Upload
from relay.session.connection import BAD_CHUNK, UNASKED, Answer, Method
from relay.session.door import Door
from relay.session.entrance import EHLO_FIRST, NO_ARGUMENT, OK, Entrance, host_name
from relay.session.grammar import Sender, parse_bdat, parse_mail, parse_rcpt
from relay.session.house import House
from relay.session.outgoing import consult
from relay.session.transaction import CLOSING, Gone, Silent, Transaction

SENDER_OK = bytes(Reply(250, "1.0", "Sender OK"))
RECIPIENT_OK = bytes(Reply(250, "1.5", "Recipient OK"))
MAIL_FIRST = Reply(503, "5.1", "MAIL first")
NO_RECIPIENTS = Reply(503, "5.1", "No valid recipients")
TOO_MANY_REFUSALS = Reply(421, "7.0", "Too many refused messages, closing")
IN_CHUNKS = Reply(503, "5.1", "Only BDAT goes on with a message that BDAT began")
BROKEN = Reply(421, "3.0", "Internal error, closing")
BYE = Reply(221, "0.0", "Bye")
BUG = Reply(451, "3.0", "Internal error, try again later")


class Abandoned(Exception):
    """The client gave up a message between two of its chunks, with the command that is still to be obeyed."""

    def __init__(self, line: bytes | None) -> None:
        super().__init__()
        self.line = line


class Protocol(Entrance):
    """One connection, whole."""

    __slots__ = ("_chunk", "_hop", "_is_asked_for", "_messages", "_recipients", "_sender")

    def __init__(self, house: House, door: Door, peer: tuple[str, int] | None = None) -> None:
        super().__init__(house, door, peer)
        self._sender: Sender | None = None
        self._recipients: dict[str, Recipient] = {}
        """By what two spellings of one mailbox have in common: it is counted and sent to once."""
        self._chunk: tuple[int, bool] | None = None
        """The chunk whose octets come next: its size, and whether it is the last."""
        self._is_asked_for = False
        self._messages = 0
        self._hop: Hop | None = None

    @property
    def account(self) -> str:
        """Whose memory a message of this connection takes."""
        return self._user.owner_id if self._user is not None else ""

    # -- the envelope --------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._sender = None
        self._recipients.clear()

    def _cmd_mail(self, argument: bytes) -> Answer | Awaitable[Answer]:
        if not self._helo:
            return EHLO_FIRST
        if self._user is None:
            return self._stranger()
        if self._sender is not None:
            return Reply(503, "5.1", "A transaction is already under way")
        sender = parse_mail(argument, self._rules.max_message_bytes)
        if isinstance(sender, Reply):
            return sender
        outfit = self._house.directory.known(self._user.owner_id)
        if outfit is not None and not outfit.is_plain and not outfit.allows(sender.address):
            return self._consult(self._user, sender)
        self._sender = sender
        return SENDER_OK

    async def _consult(self, user: User, sender: Sender) -> Answer:
        """What is remembered is against this sender: ask what is so now."""
        look = self._house.directory.look(user.owner_id)
        outfit = await consult(self._house, self._id, user, 1, look, sender.address)
        if isinstance(outfit, Reply):
            return outfit
        self._sender = sender
        return SENDER_OK

    def _cmd_rcpt(self, argument: bytes) -> Answer:
        if self._sender is None:
            return self._no_sender()
        recipient = parse_rcpt(argument, smtputf8=self._sender.smtputf8)
        if isinstance(recipient, Reply):
            return recipient
        mailbox = canonical(recipient.address)
        self._commands -= 1  # a message is being made ready; how many it may have is another limit's to say
        if mailbox in self._recipients:
            return Reply(250, "1.5", "Recipient OK, named before")
        if len(self._recipients) >= self._rules.max_recipients:
            return Reply(452, "5.3", f"Too many recipients, the limit is {self._rules.max_recipients}")
        self._recipients[mailbox] = recipient
        return RECIPIENT_OK

    def _no_sender(self) -> Reply:
        return self._stranger() if self._helo and self._user is None else MAIL_FIRST

    # -- the message ---------------------------------------------------------------------------------------------------------

    def _cmd_data(self, argument: bytes) -> Answer | Awaitable[Answer]:
        self._is_asked_for = False
        if argument or self._sender is None or not self._recipients:
            return self._unasked(NO_ARGUMENT if argument else self._not_ready())
        return self._take_message(self._sender)

    def _unasked(self, reply: Reply) -> Reply:
        """The reply to DATA that is not 354."""
        if reply.code == 421:
            return reply
        # DATA is the last of its group (RFC 2920 section 3.1). What has come behind one that is refused, or begins with no command,
        # is a message sent without waiting for 354: who wrote it must not speak here in the name of the user who sends it.
        if self.unread:
            self.say(reply)
            return UNASKED
        self._is_wary = True
        return reply

    async def _cmd_bdat(self, argument: bytes) -> Answer:
        self._chunk = parse_bdat(argument)
        if self._chunk is None:
            return BAD_CHUNK
        try:
            reply = await self._take_message(self._sender) if self._sender is not None and self._recipients else self._not_ready()
        except Abandoned as abandoned:
            answer = self._answer(abandoned.line)
            return answer if answer is None or isinstance(answer, (Reply, bytes)) else await answer
        if reply is BROKEN:
            return reply
        if self._chunk is not None:
            now = self._events.time()
            await self._read_chunk(Chunks(0), now + self._rules.data_deadline, now)
        return reply

    def _not_ready(self) -> Reply:
        return self._no_sender() if self._sender is None else NO_RECIPIENTS

    async def _take_message(self, sender: Sender) -> Reply | bytes:
        is_chunked = self._chunk is not None
        transaction = self._transaction = self._begin(sender)
        try:
            reply = await transaction.run(self)
            self._is_verdict = True
        except (Gone, Silent, Abandoned):
            raise
        except Exception as error:  # a bug: the client keeps its message
            self._house.journal.bug(transaction.id, error)
            # How much of a chunk is still to come is not known; of the message that 354 asked for, that it is.
            return BROKEN if is_chunked or self._upload is not None else BUG if self._is_asked_for else self._unasked(BUG)
        finally:
            self._transaction = None
            if self._held:
                self.release()
        if isinstance(reply, bytes):
            self._taken += 1
            self._errors = 0
            return reply
        reply = self._heed(transaction, reply)
        return reply if self._is_asked_for or is_chunked else self._unasked(reply)

    def _begin(self, sender: Sender) -> Transaction:
        assert self._user is not None
        address, _, body, ret, envid, smtputf8 = sender  # read at once: each by its name takes as long as all
        envelope = Envelope(address, tuple(self._recipients.values()), body, ret, envid, smtputf8)
        self._reset()
        self._commands = 0
        self._messages += 1
        hop = self._hop
        if hop is None or hop.helo is not self._helo or smtputf8:
            # The transmission types of RFC 3848 and RFC 6531 section 4.3.
            protocol = f"{'UTF8SMTP' if smtputf8 else 'ESMTP'}{'S' if self.is_tls else ''}A"
            hop = Hop(self._helo, self._address, self._rules.hostname, protocol)
            self._hop = None if smtputf8 else hop
        return Transaction(self._house, self._user, envelope, f"{self._id}.{self._messages}", hop)

    def secure(self) -> None:
        """Start TLS with the certificate in force now."""
        super().secure()
        self._hop = None

    def _heed(self, transaction: Transaction, reply: Reply) -> Reply:
        """What a refusal means for the connection: a changed account closes it, limits met again and again close it too."""
        match transaction.refused_for:
            case None | "store":
                return reply
            case "disabled" | "unknown" | "stale":
                self._doom = self._doom or CLOSING
                return reply
        self._refusals += 1
        if self._refusals >= self._rules.max_refusals:
            if reply.code < 500:
                return Reply(421, "7.0", reply.text)
            self._doom = self._doom or TOO_MANY_REFUSALS  # what is refused for good must not be heard as something to try again
        return reply

    def upload(self) -> Awaitable[Upload]:
        """Read the message to its end: after 354, or the rest of the chunks; raises Gone, Silent or Abandoned."""
        self._is_asked_for = True
        return self.message() if self._chunk is None else self._read_chunks()

    # -- chunks --------------------------------------------------------------------------------------------------------------

    async def _read_chunks(self) -> Upload:
        """Read the message in chunks, answering those before the last (RFC 3030 section 2); one that went wrong ends it."""
        began = self._events.time()
        latest = began + self._rules.data_deadline
        chunks = Chunks(self._rules.max_message_bytes)
        self.take_seat(chunks)
        try:
            while True:
                assert self._chunk is not None
                size, is_last = self._chunk
                await self._read_chunk(chunks, latest, began)
                if is_last or chunks.is_over or chunks.is_given_up:
                    chunks.end()
                    return chunks
                self._tell(Reply(250, "0.0", f"{size} octets received"))
                self._chunk = await self._await_chunk(latest)
        finally:
            self.leave_seat()

    async def _await_chunk(self, latest: float) -> tuple[int, bool]:
        """The next BDAT; what else may come between two chunks is answered. Raises Abandoned, Gone or Silent."""
        while not self._is_closing:
            line = await self.line(latest)
            verb, _, argument = line.rstrip(b" \t").partition(b" ") if line is not None else (b"", b"", b"")
            match verb.upper():
                case b"BDAT":
                    if chunk := parse_bdat(argument):
                        self._commands += chunk[0] < SMALL  # a large message may be in many chunks, and clients choose their size
                        return chunk
                    self._close(BAD_CHUNK)
                # Only what will be obeyed: a command that is refused changes nothing (RFC 5321 section 4.1.4).
                case b"RSET" | b"QUIT" if not argument:
                    raise Abandoned(line)
                case b"EHLO" | b"HELO" if host_name(argument) is not None:
                    raise Abandoned(line)
                case b"MAIL" | b"RCPT" | b"DATA" | b"AUTH" | b"STARTTLS":
                    self._commands += 1
                    self._tell(IN_CHUNKS)
                case _:
                    answer = self._answer(line)
                    self._tell(answer if answer is None or isinstance(answer, (Reply, bytes)) else await answer)
        raise Gone

    async def _read_chunk(self, chunks: Chunks, latest: float, began: float) -> None:
        """Read the octets that BDAT announced; raises Gone or Silent."""
        assert self._chunk is not None
        size, self._chunk = self._chunk[0], None
        chunks.begin(size)
        if size:
            await self.receive(chunks, latest, began)

    # -- the rest ------------------------------------------------------------------------------------------------------------

    def _cmd_rset(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        self._reset()
        return OK

    def _cmd_noop(self, argument: bytes) -> Answer:
        return OK

    def _cmd_vrfy(self, argument: bytes) -> Answer:
        if self._user is None:
            return self._stranger()
        return Reply(252, "5.0", "Cannot VRFY user, but will accept message and attempt delivery")

    def _cmd_help(self, argument: bytes) -> Answer:
        return Reply(214, "0.0", "See RFC 5321 and RFC 6409")

    def _cmd_refused(self, argument: bytes) -> Answer:
        return Reply(502, "5.1", "Command not implemented")

    def _cmd_quit(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        self._close(BYE)
        return None

    methods: ClassVar[Mapping[bytes, Method]] = {
        b"EHLO": Entrance._cmd_ehlo, b"HELO": Entrance._cmd_helo, b"STARTTLS": Entrance._cmd_starttls, b"AUTH": Entrance._cmd_auth,
        b"MAIL": _cmd_mail, b"RCPT": _cmd_rcpt, b"DATA": _cmd_data, b"BDAT": _cmd_bdat, b"RSET": _cmd_rset, b"NOOP": _cmd_noop,
        b"VRFY": _cmd_vrfy, b"HELP": _cmd_help, b"QUIT": _cmd_quit, b"EXPN": _cmd_refused, b"ETRN": _cmd_refused,
        b"TURN": _cmd_refused, b"ATRN": _cmd_refused,
    }  # fmt: skip
