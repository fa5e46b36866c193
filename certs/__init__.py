"""The certificate authority: make, inspect, constrain, trust, untrust; bundles per TLS stack."""
