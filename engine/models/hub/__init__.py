"""Weights on Hugging Face's hub for every family: their names, their files on this machine, their
licences. Only `download`, in a process of its own, asks the network.
"""
