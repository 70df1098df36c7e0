/**
 * Seconds since 1970-01-01T00:00:00Z; fractions are cut. Nothing in this package
 * reads a clock: pass `Date.now() / 1000`, or the moment that you want judged.
 */
export type UnixTime = number;

/** Bytes in lower-case hexadecimal digits. */
export type Hex = string;

/** What is thrown: an `Error` whose `name` is `"AttestationError"`. */
export interface AttestationError extends Error {
    readonly name: "AttestationError";
    /** Stable, for programs: `"rejected"`, or which step failed. */
    readonly code: string;
    /** Every comparison, where a policy was asked. */
    readonly checks?: readonly Check[];
}

/** One comparison of a claim with a policy. */
export interface Check {
    readonly name: string;
    readonly expected: string;
    readonly found: string;
    readonly passed: boolean;
}

export type TcbStatus =
    | "UpToDate"
    | "SWHardeningNeeded"
    | "ConfigurationNeeded"
    | "ConfigurationAndSWHardeningNeeded"
    | "TDRelaunchAdvised"
    | "TDRelaunchAdvisedConfigurationNeeded"
    | "OutOfDate"
    | "OutOfDateConfigurationNeeded"
    | "Revoked";

export type RegisterName =
    | "mrtd"
    | "rtmr0"
    | "rtmr1"
    | "rtmr2"
    | "rtmr3"
    | "mrconfigid"
    | "mrowner"
    | "mrownerconfig"
    | "mrseam";

/** How stored evidence was judged: what `cocoon verify --json` prints. */
export interface Report {
    readonly verdict: "trusted" | "rejected" | "undecided";
    /** Of the platform, once the signatures hold. */
    readonly tcb_status: TcbStatus | null;
    /** That the platform is subject to. */
    readonly advisories: readonly string[];
    /** Why it is not trusted; empty if it is. */
    readonly reasons: readonly Reason[];
    /** As measured, once the signatures hold. */
    readonly registers: { readonly [name in RegisterName]?: Hex };
}

export interface Reason {
    /** Stable, for programs. */
    readonly code: string;
    readonly expected: string;
    readonly found: string;
}

/** Text, or its bytes. */
export type Content = string | Uint8Array;

/** Collateral by file name, as `cocoon verify tdx --collateral DIR` reads it. */
export type CollateralFiles = {
    /** TCB info version 3, with its signature. */
    readonly "tcb_info.json": Content;
    readonly "tcb_info_issuer_chain.pem": Content;
    /** TD QE identity version 2, with its signature. */
    readonly "td_qe_identity.json": Content;
    /** As for the TCB info where it is left out. */
    readonly "td_qe_identity_issuer_chain.pem"?: Content | undefined;
    /** As in the quote where it is left out. */
    readonly "pck_crl_issuer_chain.pem"?: Content | undefined;
    readonly "root_ca_crl.der": Uint8Array;
} & (
    | { readonly "pck_platform_crl.der": Uint8Array }
    | { readonly "pck_processor_crl.der": Uint8Array }
    | { readonly "pck_crl.der": Uint8Array }
);

/** Both ends belong to it. */
export interface Validity {
    readonly from: UnixTime;
    readonly until: UnixTime;
}

/** What Intel's hardware stands behind. */
export interface Claims {
    /** Never `"Revoked"`: such a quote does not verify. */
    readonly tcb_status: Exclude<TcbStatus, "Revoked">;
    /** Weaknesses that became known before it are fixed. */
    readonly tcb_date: UnixTime;
    readonly advisories: readonly string[];
    readonly evaluation_number: number;
    readonly registers: { readonly [name in RegisterName]: Hex };
    /** Chosen by the guest. */
    readonly report_data: Hex;
    readonly platform: {
        readonly ppid: Hex;
        readonly instance: Hex | null;
        readonly fmspc: Hex;
        readonly pceid: Hex;
        /** SHA-256 of the PCK certificate. */
        readonly pck: Hex;
        readonly configuration: {
            readonly dynamic_platform: boolean;
            readonly cached_keys: boolean;
            readonly smt: boolean;
        } | null;
    };
}

/** An event that a quote's registers prove. */
export interface LogEvent {
    /** `"RTMR0"` to `"RTMR3"`. */
    readonly register: string;
    /** What was extended; `null` for a remark, which extends nothing. */
    readonly digest: Hex | null;
    /** What was measured, and the input that it came from. */
    readonly text: string;
    /** Whether the text is of what was hashed, and not the firmware's comment. */
    readonly proved: boolean;
}

/** Which values to take. */
export type Accept = "any" | readonly Hex[];

/** Which hardware, set up how. What is left out is strict. */
export interface PlatformPolicy {
    readonly statuses?: readonly TcbStatus[];
    /** Advisories that the platform may be subject to. */
    readonly advisories?: readonly string[];
    readonly min_evaluation_number?: number;
    /** What each byte of TEE_TCB_SVN must reach. */
    readonly min_tee_tcb_svn?: Hex;
    readonly min_pce_svn?: number;
    readonly min_qe_svn?: number;
    /** TDATTRIBUTES that may be set: `"0x"` and hexadecimal digits. */
    readonly attributes?: `0x${string}`;
    /** XFAM bits that may be set: `"0x"` and hexadecimal digits. */
    readonly xfam?: `0x${string}`;
    readonly service_tds?: readonly Hex[];
    readonly mrsignerseam?: readonly Hex[];
    readonly mrseam?: Accept;
    readonly dynamic_platform?: boolean;
    readonly cached_keys?: boolean;
    readonly smt?: boolean;
    readonly fmspc?: Accept;
    readonly ppid?: Accept;
    readonly instance?: Accept;
    /** SHA-256 of PCK certificates. */
    readonly pck?: Accept;
}

/** Which software. Nothing can be left out, and an empty set takes nothing. */
export interface IdentityPolicy {
    readonly builds: readonly {
        readonly [name in "mrtd" | "rtmr0" | "rtmr1" | "rtmr2" | "rtmr3"]: Hex;
    }[];
    readonly mrconfigid: readonly Hex[];
    readonly mrowner: readonly Hex[];
    readonly mrownerconfig: readonly Hex[];
}

export interface TdPolicy {
    readonly platform?: PlatformPolicy;
    readonly identity: IdentityPolicy;
}

/** What to hold a stored quote against. */
export interface QuotePolicy {
    readonly platform?: PlatformPolicy;
    readonly identity?: IdentityPolicy;
    readonly report_data?: Hex;
}

/** How the report of a device was judged: the registers are its measurements. */
export type GpuReport = Omit<Report, "registers"> & {
    readonly registers: { readonly [name: string]: Hex };
};

/** Evidence of one device. */
export interface GpuFiles {
    /** SPDM request and response. */
    readonly report: Uint8Array;
    /** PEM, the device's own certificate first. */
    readonly chain: Content;
    /** Reference manifests of driver and firmware. */
    readonly rims: readonly Content[];
    /** Revocation lists, DER. */
    readonly crls: readonly Uint8Array[];
    /** OCSP responses, DER. */
    readonly ocsp: readonly Uint8Array[];
}

/** Which devices to trust. Nothing can be left out. */
export interface DevicePolicy {
    /** The oldest driver; `"0"` for any. */
    readonly least_driver: string;
    /** The oldest firmware of each kind of device; others are not accepted. */
    readonly least_vbios: { readonly [kind in "hopper" | "blackwell" | "ls10"]?: string };
    /** Serial numbers of the devices' own certificates. */
    readonly serials: Accept;
    /** SHA-256 of the manifests that count. */
    readonly rims: Accept;
    /** Whether it has to be known that no certificate was revoked. */
    readonly revocation: "required" | "if-given";
}

/** What is asked of a worker, and what was agreed about it. */
export interface SealedRequest {
    readonly model: string;
    /** Tokens that are paid for at most, read and made. */
    readonly limit: number;
    /** In nanotons for a million tokens. */
    readonly price: number;
    readonly deadline_ms: number;
    readonly method: string;
    readonly path: string;
    /** Only `accept`, `content-type` and `x-receipt-opening` are taken. */
    readonly headers: readonly (readonly [string, string])[];
    /** A secret of the client's: whoever has it shares what the worker keeps. */
    readonly tenant: Hex;
}

/** What HTTP says before a body. */
export interface SealedHead {
    readonly status: number;
    readonly headers: readonly (readonly [string, string])[];
}

/** What was agreed upon for one request: by it a settlement is known that others kept. */
export interface Agreed {
    /** Tokens at most. */
    readonly limit: number;
    /** In nanotons for a million tokens. */
    readonly price: number;
    /** SHA-256 of the sealed request. */
    readonly request: Hex;
    /** Of the worker's proved keyset. */
    readonly receipt_key: Hex | null;
}

/** What a worker signed for one answer, checked. */
export interface Settled {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    /** In nanotons for a million tokens. */
    readonly price: number;
    /** In nanotons. */
    readonly cost: number;
}

/** Nobody else can name it: an object of another make has not the type. */
declare const made: unique symbol;
export interface Binding { readonly [made]: "Binding" }
export interface Collateral { readonly [made]: "Collateral" }
export interface Conversation { readonly [made]: "Conversation" }
export interface Evidence { readonly [made]: "Evidence" }
export interface Peer { readonly [made]: "Peer" }
export interface Policy { readonly [made]: "Policy" }
export interface Trusted { readonly [made]: "Trusted" }
export interface Verified { readonly [made]: "Verified" }
export interface Voucher { readonly [made]: "Voucher" }
