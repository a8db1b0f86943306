"""What every benchmark needs and no contender knows of: processes, meters, load, ports."""
