"""The OpenAI wire, in and out: shapes and words of it, and nothing that waits or sends.

May not live here: asyncio, aiohttp, gRPC.
"""
