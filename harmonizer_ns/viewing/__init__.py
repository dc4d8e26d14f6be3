# SPDX-License-Identifier: Apache-2.0
"""Enhancement in live viewers, whatever renders: settings, worker thread, streams, GUI, and a plain viser server."""
