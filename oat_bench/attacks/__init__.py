"""Attacks: the engines behind the attack cards, one file for each library."""
