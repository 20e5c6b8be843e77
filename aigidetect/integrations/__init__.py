"""Other libraries' engines around a detector. Each module needs its library, which an extra of the same name installs."""
