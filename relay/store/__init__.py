"""The Redis or Valkey connection: a batching client without blind retries, its fitness, and the embedded server."""
