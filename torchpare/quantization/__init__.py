"""Quantizers: how a trained model comes to compute with few bits."""
