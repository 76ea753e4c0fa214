"""The network, its loss and the device it runs on."""
