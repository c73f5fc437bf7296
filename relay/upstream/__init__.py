"""Where it goes: routes, the conversation with a smarthost, and the pool of its sessions."""
