"""Peers, each behind one small adapter."""
