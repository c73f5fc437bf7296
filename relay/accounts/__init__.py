"""Who may send, and how: owners, their users, the secrets of both, what owners have set, and their access tokens.

Of accounts the registry looks up and provisioning is the only writer; of settings the directory and arranging.
"""
