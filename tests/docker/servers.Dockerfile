# The test base with real servers: a database that speaks first, and a DNS server with records of its own.
ARG BASE
FROM ${BASE}
RUN set -eu; \
    apt-get update; \
    apt-get install -y --no-install-recommends mariadb-server-core mariadb-client-core dnsmasq-base; \
    rm -rf /var/lib/apt/lists/*; \
    mkdir /data; chown 999:999 /data; \
    mariadb-install-db --no-defaults --datadir=/data --auth-root-authentication-method=normal --skip-test-db; \
    printf '%s\n' "FLUSH PRIVILEGES;" "CREATE USER app IDENTIFIED BY 'app';" \
        | mariadbd --no-defaults --user=root --datadir=/data --bootstrap; \
    chown -R 999:999 /data
