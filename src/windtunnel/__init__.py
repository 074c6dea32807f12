"""Windtunnel predicts, explains and optimises how a large-language-model system will perform."""
