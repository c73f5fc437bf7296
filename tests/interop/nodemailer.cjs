// Sends with nodemailer, whose folder is the argument, what a JSON document on stdin asks for: the options of a transport and mails.
// Says on stdout what became of each mail, as JSON. All mails are handed over at once; a transport that is no pool connects for each.
'use strict';

const nodemailer = require(process.argv[2]);

async function send(transport, { raw, ...mail }) {
    try {
        const info = await transport.sendMail(raw === undefined ? mail : { ...mail, raw: Buffer.from(raw, 'base64') });
        return { failure: '', text: info.response };
    } catch (error) {
        return { failure: `${error.code} ${error.responseCode || ''}`.trim(), text: error.message };
    }
}

async function main() {
    const chunks = [];
    for await (const chunk of process.stdin) {
        chunks.push(chunk);
    }
    const { options, mails } = JSON.parse(Buffer.concat(chunks).toString());
    const transport = nodemailer.createTransport(options);
    const outcomes = await Promise.all(mails.map((mail) => send(transport, mail)));
    transport.close();
    process.stdout.write(JSON.stringify(outcomes));
}

main();
