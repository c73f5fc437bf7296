"""Who may send: owners, their users and the secrets of both. The registry looks up, provisioning is the only writer."""
