"""fastmesh: a load balancer and service-mesh sidecar with a native data plane."""

__version__ = "0.1.0"
