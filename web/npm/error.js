/** Why a request was not sent, or an answer not taken. */
export class CocoonError extends Error {
    name = "CocoonError";

    constructor(code, message) {
        super(message);
        this.code = code;
    }
}
