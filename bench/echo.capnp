# SPDX-License-Identifier: Apache-2.0
# What bench/capnp.cpp asks of its server.
@0xc0d6a1f5b7e3924d;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bench::schema");

interface Echo {
  call @0 (bytes :Data) -> (bytes :Data);
  push @1 (bytes :Data) -> stream;
  # How many pushes came since the last of these.
  finish @2 () -> (count :UInt64);
}
