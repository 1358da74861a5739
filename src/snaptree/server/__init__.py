"""The QMP server (framer, session, our commands, monitor) and the supervisor."""
