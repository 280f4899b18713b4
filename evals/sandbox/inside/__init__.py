"""What runs on the far side of the fork server. Imports the standard library only: it starts without ``evals``.

``literals`` is spoken by both processes of a check, ``checker`` runs the trusted test, ``candidate`` the untrusted
program, ``server`` forks them; ``kernel``, ``landlock``, ``seccomp``, ``syscalls``, ``root`` and ``layers`` wall
the candidate in.
"""
