"""Understands requests: routes, bodies, dialects of the APIs, errors in OpenAI's shape.

It knows no replica and no connection.
"""
