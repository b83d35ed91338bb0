"""`make conformance`: the official suite and inspector, against the product and against our server class."""
