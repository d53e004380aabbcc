"""The gateway: takes HTTP, holds requests while nothing can serve them, and keeps the token log of every open request.

May not live here: decisions about workers (the operator makes them), tokenizers and model files (workers have them).
"""
