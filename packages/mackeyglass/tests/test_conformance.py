from sciml_testkit import conformance

test_conformance = conformance("mackeyglass")
