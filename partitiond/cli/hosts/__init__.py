"""Commands of a host among several: join a head, leave it, keep Ray running, take over."""
