# The init image: puts the rules in place that lead a container's connections through fastmesh, and ends.
#   docker build -f docker/init.Dockerfile -t fastmesh-init .
# It runs as root with NET_ADMIN, in the network namespace of the application, so that the proxy itself needs
# neither.
ARG IMAGE=fastmesh
FROM ${IMAGE}
USER 0:0
RUN set -eu; \
    apt-get update; \
    apt-get install -y --no-install-recommends iptables; \
    rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="fastmesh-init" \
      org.opencontainers.image.description="Leads a container's connections through fastmesh"
HEALTHCHECK NONE
ENTRYPOINT ["fastmesh", "sidecar", "iptables"]
CMD ["--apply"]
