"""Where a model's files come from: sources on the net, and the cache on a node's disk that its workers share.

    uri ─▶ remote (hub, objects, web) ─▶ listing ─▶ cache folder ─▶ artifact: blocks that come when they are read

Imports no torch. May not live here: what the files mean. Nothing here may start a thread in the zygote.
"""
