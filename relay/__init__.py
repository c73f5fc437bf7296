"""An SMTP relay that keeps per-user sending limits exactly. The map of the house, in the order a message walks it:

session    how it comes in: listeners, the protocol, AUTH, the transaction (the spine), the disposition
accounts   who may send: owners, users, their secrets; the registry looks up, provisioning writes; and how an owner's mail goes out:
           the directory looks up, arranging writes
quota      how much: limits, and the ledger that reserves before 354 and settles before 250
upstream   where it goes: routes, the dispatch over their smarthosts, each one's pool of sessions, the guard before owners' hosts
spool      what we promised: messages the smarthost did not take, each recipient's standing, charges the store must still hear of
retry      trying again, giving up in writing: the schedule, the runner, the reports

Around them:

mail       the words: address, envelope, reply, verdict, trace, dsn; pure
journal    the mail log, one function per named event, its metric beside it
store      the Redis or Valkey connection, and the embedded server
dialects   a vendor's words to provisioning's and back; pure
api        the HTTP door
loadkit    load generator, scripted sink, oracle
config     what can be set, frozen
source     where it is read from: TOML, environment, secrets
entry      the listeners as configured: doors, certificate, files
outlet     the way out as configured: the relay's own route, the guard, the dispatch
life       a process: what ends it, and what nobody caught
daemon     the only joiner of rooms
estate     what dead processes leave, and who sees to it
worker     one process: its start, its life, its signals
supervisor starts, watches and stops the processes
cli        the shell door
"""

__version__ = "0.1.0"
