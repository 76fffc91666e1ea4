"""Runs the test suite that ships inside eas_prediction against the endpoint in argv[1]; nothing of it is changed but
the three constants that say where the service is. In the package's own virtual environment."""

import sys
import unittest

from eas_prediction import test_queue_client as suite

suite.QueueEndpoint, suite.QueueToken = sys.argv[1], sys.argv[2]
suite.QueueName, suite.SinkQueueName = "sd_async", "sd_async/sink"

tests = unittest.defaultTestLoader.loadTestsFromModule(suite)
result = unittest.TextTestRunner(verbosity=2).run(tests)
print("ran", result.testsRun)
sys.exit(not result.wasSuccessful())
