"""Measurements that anybody can repeat: `make bench`, or one of the modules by itself."""
