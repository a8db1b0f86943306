#!/bin/sh
# Two applications, each with a sidecar in its network namespace, by `docker run` alone:
#
#   you -> :8080 -> [shop's sidecar] shop -> 127.0.0.1:8080 [its sidecar] -> [orders' sidecar] orders
#
#   examples/docker/up.sh && curl http://127.0.0.1:8080/ ; examples/docker/down.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
fastmesh=${FASTMESH_IMAGE:-fastmesh}
python=${APP_IMAGE:-python:3.13-slim-bookworm}
port=${PORT:-8080}

application() { # application NAME [OPTION…] -- [ARGUMENT…]
    name=$1
    shift
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # options are words
    docker run -d --init --name "$name" --network fastmesh-example $options -v "$here/../app.py:/app.py:ro" \
        "$python" python3 /app.py "$name" "$@"
}

sidecar() { # sidecar NAME: shares the network of the application, and nothing else
    docker run -d --name "$1-sidecar" --network "container:$1" \
        --read-only --cap-drop ALL --security-opt no-new-privileges --stop-timeout 40 \
        -v "$here/$1:/etc/fastmesh:ro" "$fastmesh" run fastmesh.yaml
}

docker network create fastmesh-example
application orders --
sidecar orders
# What is published is the namespace's, so the application's container publishes the port of its sidecar.
application shop -p "$port:15006" -- http://127.0.0.1:8080
sidecar shop
