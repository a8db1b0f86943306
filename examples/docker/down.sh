#!/bin/sh
# Ends what up.sh began: the sidecars when their applications have gone.
for name in shop orders; do
    docker stop "$name"
    docker stop "$name-sidecar"
    docker rm "$name-sidecar" "$name"
done
docker network rm fastmesh-example
