"""Reports over HTTP: a key with the grant `reports` reads its own tenant's figures."""
