"""Serving: which request runs next, where its keys and values live, what it samples and how that becomes text.

May not live here: loading, gRPC, sockets. ``batch`` and the block table of ``kv`` count integers and import no torch.
"""
