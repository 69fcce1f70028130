"""The console command ``ppml``."""
