"""The cluster's side of the operator: what Kubernetes stores, watched and written. Decisions live in ``decide``.

Only modules below here import kopf and the Kubernetes client, so that local mode needs neither.
"""
