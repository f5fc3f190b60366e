"""Dialects: bytes on the wire to and from the neutral events of `events`. Sans-IO."""
