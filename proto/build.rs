//! Generates the contract's Rust code. protox compiles the `.proto` files, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 10] = [
    "types",
    "traffic",
    "routing",
    "registry",
    "discovery",
    "snapshots",
    "operations",
    "resources",
    "replicas",
    "store",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=waypost");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = FILES.map(|name| format!("waypost/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    let encoded = descriptors.encode_to_vec();
    fs::write(out.join("descriptors.bin"), &encoded)?;

    tonic_prost_build::configure()
        .btree_map(".")
        .extern_path(".google.protobuf.Timestamp", "::pbjson_types::Timestamp")
        .extern_path(".google.protobuf.Duration", "::pbjson_types::Duration")
        .compile_fds(descriptors)?;

    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .btree_map(["."])
        .build(&[".waypost.v1"])?;

    // The same Subscribe, for a server that sends messages which were encoded before: see `src/frame.rs`.
    let subscribe = tonic_build::manual::Method::builder()
        .name("subscribe")
        .route_name("Subscribe")
        .input_type("crate::v1::SubscribeRequest")
        .output_type("crate::frame::Frame")
        .codec_path("crate::frame::FrameCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let service = tonic_build::manual::Service::builder()
        .name("Snapshots")
        .package("waypost.v1")
        .method(subscribe)
        .build();
    let encoded_out = out.join("encoded");
    fs::create_dir_all(&encoded_out)?;
    tonic_build::manual::Builder::new().build_client(false).out_dir(encoded_out).compile(&[service]);
    Ok(())
}
