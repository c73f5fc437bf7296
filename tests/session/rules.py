"""Which golden dialog shows which extension and which rule; `test_dialog_coverage` sees that each of them is there.

An exchange is the name of a dialog and lines that stand behind each other in it.
"""

from __future__ import annotations

Exchange = tuple[str, ...]

_MAIL, _RCPT, _DATA = "C: MAIL FROM:<a@b.example>", "C: RCPT TO:<c@d.example>", "C: DATA"
_SENDER, _RECIPIENT, _START = "S: 250 2.1.0 Sender OK", "S: 250 2.1.5 Recipient OK", "S: 354 {any}"
_ENVELOPE = (_MAIL, _RCPT, _DATA, _SENDER, _RECIPIENT, _START)
_UNKNOWN, _NO_MAIL = "S: 500 5.5.1 Command not recognized", "S: 503 5.5.1 MAIL first"

KEYWORDS: dict[str, Exchange] = {
    "PIPELINING": ("pipelining", "C: .", _MAIL, _RCPT, _DATA, "S: 250 2.0.0 {id} Ok: queued as 1", _SENDER, _RECIPIENT, _START),
    "SIZE": ("sender", "C: MAIL FROM:<a@b.example> SIZE=5001", "S: 552 5.3.4 Message size 5001 exceeds the limit of 5000 octets"),
    "8BITMIME": ("auth_parameter", "U: MAIL FROM:<a@b.example> SIZE={seconds} BODY=8BITMIME"),
    "SMTPUTF8": ("smtputf8", "C> MAIL FROM:<j\\xc3\\xbcrgen@b\\xc3\\xbccher.example> SMTPUTF8 BODY=8BITMIME\\r\\n", _SENDER),
    "DSN": ("dsn_parameters", "U: RCPT TO:<one@d.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;One+40d.example"),
    "ENHANCEDSTATUSCODES": ("other_commands", "C: NOOP", "S: 250 2.0.0 OK"),
    "CHUNKING": ("chunking", "C> BDAT 2 last\\r\\n\\r\\n", _SENDER, _RECIPIENT, "S: 250 2.0.0 13 octets received"),
    "LIMITS": ("recipients", "C: RCPT TO:<three@d.example>", "S: 452 4.5.3 Too many recipients, the limit is 2"),
    "HELP": ("other_commands", "C: HELP", "S: 214 2.0.0 See RFC 5321 and RFC 6409"),
    "STARTTLS": ("starttls", "S: 220 2.0.0 Ready to start TLS", "@tls"),
    "AUTH": ("auth_plain", "C: auth plain {plain}", "S: 235 2.7.0 Authentication successful"),
}

RULES: dict[str, Exchange] = {
    # RFC 5321
    "5321 2.3.8 only CRLF ends a command": ("line_ends", "C> NOOP\\nNOOP\\r\\n", _UNKNOWN),
    "5321 2.3.8 only CRLF ends a line of a message": (
        "bare_line_ends_in_message", "C> Subject: x\\r\\r\\n\\r\\n.\\r\\n", "S: 550 5.6.11 {any}",
    ),
    "5321 3.8 421 before closing, for errors": ("too_many_errors", _UNKNOWN, "S: 421 4.7.0 Too many errors, closing", "@closed"),
    "5321 3.8 421 before closing, for the limit": (
        "limits_again_and_again", _SENDER, _RECIPIENT,
        "S: 421 4.7.0 Hourly sending limit reached (1/1 messages); retry-after={seconds} at={time}", "@closed",
    ),
    "5321 3.8 221 before closing": ("other_commands", "C: quit", "S: 221 2.0.0 Bye", "@closed"),
    "5321 4.1.1 white space at the end": ("order", "C> RSET \\t \\r\\n", "S: 250 2.0.0 OK"),
    "5321 4.1.1.2 the null reverse-path": ("sender", "C: MAIL FROM:<>", _SENDER),
    "5321 4.1.1.4 a lone dot ends a message": ("message", "C: .", "S: 250 2.0.0 {id} Ok: queued as 3"),
    "5321 4.1.1.4 451 at DATA": (
        "limits", _MAIL, _RCPT, _DATA, _SENDER, _RECIPIENT,
        "S: 451 4.7.0 Hourly sending limit reached (1/1 messages); retry-after={seconds} at={time}",
    ),
    "5321 4.1.1.5 RSET": ("order", "C: RSET", "S: 250 2.0.0 OK", _DATA, _NO_MAIL),
    "5321 4.1.1.6 VRFY": ("other_commands", "C: VRFY a", "S: 252 2.5.0 Cannot VRFY user, but will accept message and attempt delivery"),
    "5321 4.1.1.11 555 for an unknown parameter": (
        "sender", "C: MAIL FROM:<a@b.example> X-NEW=1", "S: 555 5.5.4 X-NEW: parameter not supported",
    ),
    "5321 4.1.4 EHLO ends a transaction": (
        "helo", "C: EHLO again.example", "S: 250-...", "S: 250 AUTH PLAIN LOGIN", _RCPT, _NO_MAIL,
    ),
    "5321 4.1.4 EHLO that is refused ends nothing": ("helo", "C: EHLO a b", "S: 501 5.5.4 Syntax: EHLO hostname", _RCPT, _RECIPIENT),
    "5321 4.1.4 EHLO first": ("helo", _MAIL, "S: 503 5.5.1 EHLO first"),
    "5321 4.1.4 MAIL, RCPT, DATA": ("order", _DATA, "S: 503 5.5.1 No valid recipients"),
    "5321 4.4 Received": (
        "chunking", "U: Received: from client.example ([127.0.0.1])", "U: \tby relay.example with ESMTPA id {id}",
        "U: \tfor <c@d.example>;", "U: \t{date}",
    ),
    "5321 4.5.2 stuffed dots": ("message", "U: .", "U: .a", "U: ..", "U:  ."),
    "5321 4.5.3.1.8 a hundred recipients": ("recipients_hundred", "S: 452 4.5.3 Too many recipients, the limit is 100", "S: 354 {any}"),
    "5321 4.5.3.1.10 452 for too many": ("recipients", "C: RCPT TO:<One@d.example>", "S: 452 4.5.3 Too many recipients, the limit is 2"),
    "5321 6.1 responsible after 250": ("spooled", "S: 354 {any}", "S: 250 2.0.0 {id} Queued"),
    "5321 6.3 at least a hundred Received": (
        "loop", "C> {Received: from x.example by y.example with ESMTP id 1; Thu, 01 Jan 1970 00:00:00 +0000\\r\\n*101}\\r\\n.\\r\\n",
        "S: 554 5.4.6 Mail loop: this message has passed here too often",
    ),
    # RFC 6409
    "6409 3.2 refused at once": ("spooled", "S: 354 {any}", "S: 550 5.1.1 upstream said: never"),
    "6409 4.2 fully qualified domains": (
        "addresses_refused", "C: RCPT TO:<a@sales>", "S: 554 5.1.2 The recipient's domain is not fully qualified",
    ),
    "6409 4.3 530 without AUTH": ("auth_refused", _MAIL, "S: 530 5.7.0 Authentication required"),
    "6409 5.1 501 for a bad address": ("addresses_refused", "C: RCPT TO:<a,b@c.d>", "S: 501 5.1.3 Bad recipient address syntax"),
    "6409 6.1 550 5.7.1 for the user's sake": ("limits", "S: 550 5.7.1 Total sending limit reached (2/2 messages)"),
    "6409 7 no ETRN": ("other_commands", "C: ETRN example.org", "S: 502 5.5.1 Command not implemented"),
    "6409 7 no ATRN": ("other_commands", "C: ATRN example.org", "S: 502 5.5.1 Command not implemented"),
    "6409 8 Date and Message-ID": ("message", "U: Date: {date}", "U: Message-ID: <{id}@relay.example>", "U: Subject: x"),
    # RFC 4954
    "4954 3 AUTH needs EHLO": ("helo", "C: AUTH PLAIN {plain}", "S: 503 5.5.1 EHLO first"),
    "4954 4 no plaintext offered without TLS": ("greeting", "S: 250-LIMITS RCPTMAX=100", "S: 250 HELP"),
    "4954 4 538 without TLS": (
        "auth_without_tls", "C: AUTH PLAIN {plain}", "S: 538 5.7.11 Encryption required for authentication",
    ),
    "4954 4 not in a transaction": ("auth_order", _MAIL, _SENDER, "C: AUTH PLAIN {plain}", "S: 503 5.5.1 Already authenticated"),
    "4954 4 only once": ("auth_order", "C: AUTH PLAIN {wrong}", "S: 503 5.5.1 Already authenticated"),
    "4954 4 504 for an unknown mechanism": ("auth_plain", "C: AUTH CRAM-MD5", "S: 504 5.5.4 Authentication mechanism not supported"),
    "4954 4 strict base64": ("auth_plain", "C: AUTH PLAIN AGEAYg", "S: 501 5.5.2 Not valid base64"),
    "4954 4 * cancels": ("auth_plain", "C: AUTH PLAIN", "S: 334 ", "C: *", "S: 501 5.7.0 Authentication cancelled"),
    "4954 4 lines of 12288 octets": (
        "auth_long_lines", "C: AUTH PLAIN {a*12292}", "S: 500 5.5.6 Authentication exchange line is too long",
    ),
    "4954 4 = is an empty initial response": ("auth_exchange", "C: AUTH LOGIN =", "S: 334 UGFzc3dvcmQ6"),
    "4954 4 three failures at least": (
        "auth_failures", "S: 535 5.7.8 Authentication credentials invalid", "S: 421 4.7.0 Too many failed attempts, closing",
    ),
    "4954 5 AUTH= on MAIL": ("auth_parameter", "C: MAIL FROM:<a@b.example> AUTH=<>", _SENDER),
    "4954 6 454 is no wrong password": (
        "auth_throttled", "C: AUTH PLAIN {plain}", "S: 454 4.7.0 Too many failed attempts; retry-after={seconds}",
    ),
    "4954 6 530 at VRFY": ("auth_refused", "C: VRFY a@b.example", "S: 530 5.7.0 Authentication required"),
    "4954 6 NOOP needs none": ("auth_refused", "C: NOOP", "S: 250 2.0.0 OK"),
    "5248 525 for a disabled account": ("auth_refused", "C: AUTH PLAIN {plain}", "S: 525 5.7.13 User account disabled"),
    "4954 7 and 3848 ESMTPSA": (
        "starttls", "U: Received: from client.example ([127.0.0.1])", "U: \tby relay.example with ESMTPSA id {id}",
    ),
    # RFC 3207, RFC 8314
    "3207 4 501 with an argument": ("starttls", "C: STARTTLS now", "S: 501 5.5.4 No argument allowed"),
    "3207 4 530 without TLS": ("auth_without_tls", _MAIL, "S: 530 5.7.0 Must issue a STARTTLS command first"),
    "3207 4 not twice": ("starttls", "C: STARTTLS", "S: 503 5.5.1 TLS is already active"),
    "3207 4.2 what came before is thrown away": (
        "starttls", "C: STARTTLS", "C: EHLO injected.example", "C: NOOP", "S: 220 2.0.0 Ready to start TLS", "@tls",
        "C: AUTH PLAIN {plain}", "S: 503 5.5.1 EHLO first",
    ),
    "3207 4.2 not offered again": (
        "greeting", "@tls", "C: EHLO client.example", "S: 250-relay.example greets client.example", "S: 250-PIPELINING",
        "S: 250-SIZE 26214400", "S: 250-8BITMIME", "S: 250-SMTPUTF8", "S: 250-DSN", "S: 250-ENHANCEDSTATUSCODES", "S: 250-CHUNKING",
        "S: 250-LIMITS RCPTMAX=100", "S: 250-HELP", "S: 250 AUTH PLAIN LOGIN",
    ),
    "8314 3.3 implicit TLS": ("starttls", "@door implicit", "S: 220 {any}", "C: STARTTLS", "S: 503 5.5.1 TLS is already active"),
    # RFC 2920
    "2920 3.2 503 at DATA without a recipient": ("order", _DATA, "S: 503 5.5.1 No valid recipients", "C: RCPT TO:<>"),
    "2920 3.1 DATA is the last of its group": (
        "pipelined_body_after_refusal", "S: 421 4.5.1 Message sent without waiting for 354, closing", "@closed",
    ),
    "2920 3.2 replies in order": (
        "pipelining", "S: 235 2.7.0 Authentication successful", _SENDER, "S: 501 5.1.3 Bad recipient address syntax", _RECIPIENT,
    ),
    # RFC 3030
    "3030 2 a refused chunk is consumed": ("chunking_refused", "C: BDAT 6 LAST", "C: QUIT", "S: 530 5.7.0 Authentication required"),
    "3030 2 DATA after BDAT": ("chunking_refused", "S: 503 5.5.1 Only BDAT goes on with a message that BDAT began"),
    "3030 2 what is refused between chunks changes nothing": (
        "chunking_refused", "S: 501 5.5.4 No argument allowed", "C: BDAT 0 LAST", "S: 250 2.0.0 {id} {any}", "@taken 1",
    ),
    "3030 2 BDAT after the last": ("chunking_refused", "S: 250 2.0.0 {id} {any}", _NO_MAIL, "S: 250 2.0.0 OK"),
    "3030 2 a failure ends the transaction": (
        "chunking_refused", "S: 552 5.3.4 Message exceeds the limit of 1024 octets", _NO_MAIL,
    ),
    "3030 2 RSET gives up": ("chunking_refused", "C: RSET", "C: BDAT 6 LAST", "C: QUIT", "S: 250 2.0.0 OK", _NO_MAIL),
    "3030 2 a last chunk of nothing": ("chunking", "C: BDAT 0 LAST", _SENDER),
    "3030 3 BINARYMIME is not offered": (
        "sender", "C: MAIL FROM:<a@b.example> BODY=BINARYMIME", "S: 555 5.5.4 BODY=BINARYMIME: not offered here",
    ),
    # RFC 1870, 6152, 6531
    "1870 6.1 552 at MAIL": (
        "sender", "C: MAIL FROM:<a@b.example> SIZE=5001", "S: 552 5.3.4 Message size 5001 exceeds the limit of 5000 octets",
    ),
    "1870 6.3 552 at the end": ("too_big", "C: {x*100000}", "C: .", "S: 552 5.3.4 Message exceeds the limit of 1024 octets"),
    "6152 2 BODY=7BIT": ("sender", "C: MAIL FROM:<a@b.example> SIZE=5000 BODY=7BIT ", _SENDER),
    "6152 3 a smarthost without it": (
        "upstream_without_8bitmime", "S: 554 5.6.3 8-bit content, and the smarthost does not offer 8BITMIME", "@taken 0",
    ),
    "6531 3.5 it must be asked for": (
        "sender", "C> MAIL FROM:<\\xc3\\xbc@b.example>\\r\\n", "S: 553 5.6.7 Non-ASCII sender address without SMTPUTF8",
    ),
    "6531 3.5 a smarthost without it, an address": (
        "smtputf8_upstream_without", "S: 550 5.6.7 Non-ASCII sender address, and the smarthost does not offer SMTPUTF8",
    ),
    "6531 3.5 a smarthost without it, the header": (
        "smtputf8_upstream_without", "S: 554 5.6.9 UTF-8 in the header, and the smarthost does not offer SMTPUTF8",
    ),
    # RFC 3461
    "3461 4.1 NEVER stands alone": ("dsn_parameters", "C: RCPT TO:<c@d.example> NOTIFY=NEVER,FAILURE", "S: 501 5.5.4 Bad value of NOTIFY"),
    "3461 4.1 NEVER is passed on": ("dsn_parameters", "U: RCPT TO:<two@d.example> NOTIFY=NEVER"),
    "3461 4.2 ORCPT has a type": ("addresses_refused", "C: RCPT TO:<a@b.c> ORCPT=a@b.c", "S: 501 5.5.4 Bad value of ORCPT"),
    "3461 4.3 and 4.4 RET and ENVID": ("dsn_parameters", "U: MAIL FROM:<a@b.example> SIZE={seconds} RET=FULL ENVID=QQ+2B314159"),
    "3461 5.2.2 a smarthost without it": ("dsn_parameters_dropped", "U: MAIL FROM:<>", "U: RCPT TO:<one@d.example>"),
    # RFC 6409, RFC 6376
    "6409 6.1 who may send as whom": (
        "sender_policy", "C: MAIL FROM:<a@other.example>", "S: 550 5.7.1 Sender address not allowed for this account",
    ),
    "6376 3.5 what a signature says": (
        "signed", "U: DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; t={seconds};", "U: \td=b.example;", "U: \ts=one;",
        "U: \th=from:from:date:message-id;",
    ),
    # RFC 9422, RFC 8689
    "9422 4 RCPTMAX": ("recipients", "S: 250-LIMITS RCPTMAX=2", "S: 250-HELP"),
    "8689 2 REQUIRETLS is not to be had": (
        "sender", "C: MAIL FROM:<a@b.example> REQUIRETLS", "S: 555 5.5.4 REQUIRETLS: parameter not supported",
    ),
}  # fmt: skip
