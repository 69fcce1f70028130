"""The public interface of the package; users import its names from ``ppml``."""
