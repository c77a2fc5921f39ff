"""Sends requests over kept-alive HTTP/1.1 connections, and reads answers and their events.

`client` is the entrance; `target` says where a server is. Few steps are spent on each chunk,
because a client that is busy measures its own queue.
"""
