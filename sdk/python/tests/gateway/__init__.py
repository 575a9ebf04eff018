"""Tests of `waypost.gateway`: real servers, real clients, and raw sockets where bytes matter."""
