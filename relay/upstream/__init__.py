"""Where it goes: routes, the choice among their smarthosts, the pool of sessions with one, and the conversation on a session."""
