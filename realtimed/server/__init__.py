"""WebSockets: listener, handshake, connection, outbox. Knows Trio; never vLLM."""
