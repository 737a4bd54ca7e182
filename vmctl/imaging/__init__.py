<<<<<<< HEAD
"""Image files on the client: looked at, fetched, unpacked, turned into other formats.

Nothing here speaks to libvirt.
"""
=======
"""Image files on the client: looked at, converted, packed and unpacked. No host is known here."""
>>>>>>> 5e23b94 (Read OVF and OVA packages and bundles from untrusted files)
