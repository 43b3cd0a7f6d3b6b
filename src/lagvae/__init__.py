"""lagvae: the Information Autoencoding Family as constrained problems (Zhao, Song, Ermon, UAI 2018)."""

__version__ = "0.1.0"
