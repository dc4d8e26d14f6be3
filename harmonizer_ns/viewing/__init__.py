# SPDX-License-Identifier: Apache-2.0
"""Enhancement in live viewers, whatever renders: what a viewer's frame goes through reads in `server.SceneViewer`.

May import enhancers and the small modules. nerfstudio's own viewer (plugin) uses the same session, worker and panel.
"""
