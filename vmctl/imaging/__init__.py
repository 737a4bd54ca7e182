"""Image files on the client: looked at, fetched, unpacked, turned into other formats.

Nothing here speaks to libvirt.
"""
