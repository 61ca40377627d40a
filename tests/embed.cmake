# SPDX-License-Identifier: Apache-2.0
# hawser inside event loops of others, as the samples show it.
add_program_test(embed embed_test.py TIMEOUT 60 LABEL samples
  ARGUMENTS $<TARGET_FILE:embed_libuv> $<TARGET_FILE:embed_asio>)
