"""Gong et al. 2022: L1-to-pretrained fine-tuning, extraction of the dominant ticket, and training only the ticket."""
