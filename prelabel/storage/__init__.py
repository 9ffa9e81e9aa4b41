"""Reading and writing files on any storage: addresses, publishing, retries, storage errors."""
