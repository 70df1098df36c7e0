// A recorded report of an NVIDIA GPU, judged in wasm as by the command line.
import assert from "node:assert/strict";
import { test } from "node:test";
import { verifyGpu } from "@cocoon/attestation";
import { cocoon, noCocoon } from "./command-line.mjs";
import { path, read, skip } from "./vectors.mjs";

const AT = 1_700_000_000;
const NONCE = "4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e";
const REPORT = "nvidia/confidentsecurity__go-nvtrust/mock.report.bin";
const CHAIN = "nvidia/confidentsecurity__go-nvtrust/mock.chain.pem";
const rim = (name) => `nvidia/NVIDIA__nvtrust/rims/${name}.swidtag`;
const DRIVER = rim("Driver_RIM_test_no_gpu");
const VBIOS = rim("1010_0200_882_96005E0001_test_no_gpu");
const OTHER_VBIOS = rim("1010_0200_882_96005E0001_PROD");

const judge = (rims, nonce = NONCE, policy = "any") =>
    verifyGpu(
        { report: read(REPORT), chain: read(CHAIN), rims: rims.map(read), crls: [], ocsp: [] },
        Buffer.from(nonce, "hex"),
        policy,
        AT,
    );

test("a GPU that runs what NVIDIA released is trusted", { skip }, () => {
    const { verdict, registers, reasons } = judge([DRIVER, VBIOS]);
    assert.equal(verdict, "trusted", JSON.stringify(reasons));
    assert.equal(Object.keys(registers).length, 64);
});

test("other firmware, another nonce and a lacking manifest are refused", { skip }, () => {
    const codes = (...args) => judge(...args).reasons.map((reason) => reason.code);
    assert.deepEqual(codes([DRIVER, OTHER_VBIOS])[0], "measurement-01");
    assert.deepEqual(codes([DRIVER, VBIOS], NONCE.replace("4", "5")), ["nonce"]);
    assert.deepEqual(codes([DRIVER]), ["vbios-rim"]);
});

test("a policy for devices has no unset part", { skip }, () => {
    const policy = {
        least_driver: "999",
        least_vbios: { hopper: "0" },
        serials: "any",
        rims: "any",
        revocation: "if-given",
    };
    const { reasons } = judge([DRIVER, VBIOS], NONCE, policy);
    assert.deepEqual(reasons.map((reason) => reason.code), ["driver-version"]);
    const { serials: _, ...unset } = policy;
    for (const none of [unset, {}, "all", undefined]) {
        assert.throws(() => verifyGpu({}, Buffer.alloc(32), none, AT), { code: "policy" });
    }
    assert.throws(() => verifyGpu({}, Buffer.alloc(32), "any", AT), { code: "gpu-files" });
    assert.throws(() => verifyGpu({}, Buffer.alloc(31), "any", AT), { code: "length" });
});

test("reports of GPUs are those of the command line", { skip: skip || noCocoon }, () => {
    for (const rims of [[DRIVER, VBIOS], [DRIVER, OTHER_VBIOS], [DRIVER]]) {
        const files = ["--report", path(REPORT), "--chain", path(CHAIN), "--rim", ...rims.map(path)];
        const report = cocoon("gpu", ...files, "--nonce", NONCE, "--at", `${AT}`);
        assert.deepEqual(judge(rims), report);
    }
});
