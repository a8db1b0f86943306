"""What a sidecar needs of the machine that it shares with its application: whose sockets are whose, and rules
by which the kernel hands it connections. Who serves imports `sockets` alone."""

from fastmesh.sidecar.sockets import own_user_complaint, owner_of_port

__all__ = ["own_user_complaint", "owner_of_port"]
